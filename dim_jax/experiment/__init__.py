"""The DIM experiment: its arms, its runs, the images they add, their predictions, and what follows from them."""
