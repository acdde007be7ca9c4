"""A TCP proxy that shapes what passes, driven through Toxiproxy's HTTP API."""
