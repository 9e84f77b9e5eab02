"""budgets.toml -> verdicts: what a file may weigh, cost and lose. No torch, no toolkit, no run of a file."""
