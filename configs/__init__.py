"""Ready configurations; in the installed package they are dim_jax.configs."""
