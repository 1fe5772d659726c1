"""L0 gates (Louizos et al. 2018; McCarley et al. 2019)."""
