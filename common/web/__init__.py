"""What every HTTP service needs: problems, bodies, limits, API keys, the server."""
