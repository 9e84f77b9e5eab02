"""Method and rank of each layer: goals, rules, costs and losses."""
