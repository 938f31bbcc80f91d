"""Who gets the next connection. Knows neither psycopg nor Django: see core.py."""
