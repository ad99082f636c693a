"""Joins the guard and the evidence: what enabling a machine and proving one command both stand on."""
