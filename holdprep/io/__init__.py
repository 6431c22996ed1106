"""Files: reading without executing, writing all or nothing, videos, networks from a local folder."""
