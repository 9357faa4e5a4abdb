"""Raw rows become examined rows: repairs, rules, personal data, all as columns."""
