"""The study: what each method and recipe is worth on real data, cell by cell, one line of a results file each."""
