"""The web UI: pages for Streamlit, a client of the public HTTP API and nothing else."""
