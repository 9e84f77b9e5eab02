"""A run's files -> one Summary -> a Markdown page and a closing table in the terminal."""
