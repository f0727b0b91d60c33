"""A run or a study as one HTML page that stands alone, made from its records. No torch here."""
