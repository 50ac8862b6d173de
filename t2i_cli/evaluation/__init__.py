"""Pictures and captioned data -> figures, beside what real pictures and damaged real pictures reach.

`features` holds the networks that look, `metrics`, `colours` and `recognition` the arithmetic, `scores` the names of
the figures; `bench` measures any pictures against the same held-out ones, `calibration` damages real pictures, and
`results` holds what was found; `report` and `page` show it.
"""
