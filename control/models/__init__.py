"""Models: registered checkpoints, their files, references and activations, as the database has them."""
