"""Real text for parity: short, our own, and with answers in it."""

QUESTIONS: tuple[tuple[str, str], ...] = (
    (
        "How long is the bridge?",
        "The old bridge over the Sarn was finished in 1874 after nine years of work. It is 412 metres long, stands on "
        "eleven stone arches, and carries a single railway track beside a footpath.",
    ),
    (
        "Who repaired the clock?",
        "For two winters the clock in the market tower had stood at ten past four. In March the town asked Ilse Brandt, a "
        "watchmaker from the next valley, to repair it, and by Easter it struck the hours again.",
    ),
    (
        "What do the birds eat in winter?",
        "In summer the birds live on beetles and flies that they catch above the water. When the lake freezes they move "
        "down to the fields, where they eat seeds and frozen berries until the thaw.",
    ),
    (
        "Why was the match postponed?",
        "The match between the two villages was to begin at noon on Saturday. Heavy rain during the night had flooded the "
        "lower half of the ground, so the referee postponed it to the following week.",
    ),
    (
        "When does the library open on Sundays?",
        "The library is open from nine to seven on weekdays and from ten to four on Saturdays. On Sundays it opens at one "
        "in the afternoon, and only the reading room can be used.",
    ),
    (
        "Which metal is the statue made of?",
        "Visitors often take the figure above the gate for stone. It is in fact cast in bronze, and has turned pale green "
        "in the salt air; only the plinth is granite.",
    ),
    (
        "How many ships were lost?",
        "Of the fourteen ships that left the harbour in August, three were lost in the first storm and a fourth ran "
        "aground a month later, but its crew reached the shore.",
    ),
    (
        "What is the capital of the province?",
        "Larger cities have grown along the coast since the port was built. The capital of the province, however, is "
        "still the small inland town of Merrow, where the court and the archive are.",
    ),
)

SENTENCES: tuple[str, ...] = (
    "The second act is slow, but the last twenty minutes are worth the wait.",
    "Nobody at the desk could tell us when the next train would leave.",
    "A quiet, careful film with two outstanding performances.",
    "The soup was cold and the bill was wrong.",
    "Mira Kovac moved from Zagreb to Oslo in 1998 to work for a shipping company.",
    "It rained.",
    "After the meeting the committee published its report, which nobody had expected to be so long, on the same day.",
    "Would you buy it again?",
)
