"""The rooms of `dim_jax.report`: reading run directories, wording, drawing, and what the page shows of each run."""
