"""HTML report pages of runs, experiments and selections of generated images, with their figures and tables."""
