"""How the bundled model is made: the corpus it learns, the recipe, and the exam it must pass."""
