"""One factorization each: a layer -> factors that take its place."""
