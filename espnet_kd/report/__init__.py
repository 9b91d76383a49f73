"""The experiments of a recipe as tables, pictures and RESULTS.md."""
