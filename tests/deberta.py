"""DeBERTa's tiny networks: every way in which they score distances."""

from __future__ import annotations

from typing import Any

import pytest

from tests.models import FAMILY_CASES, FamilyCase

_CASES = {str(case): case for case in FAMILY_CASES}
V1, V2 = _CASES["deberta"], _CASES["deberta-v2"]
TERMS = (["c2p", "p2c"], ["c2p"], ["p2c"])
# DeBERTa's projections are always separate, and its keys have no bias.
KINDS = [
    *((V2, {"share_att_key": shared, "pos_att_type": terms}) for shared in (True, False) for terms in TERMS),
    *((V1, {"pos_att_type": terms}) for terms in TERMS),
]
every_kind = pytest.mark.parametrize(("case", "changes"), KINDS, ids=str)


def name_of(kind: tuple[FamilyCase, dict[str, Any]]) -> str:
    return " ".join(map(str, kind))
