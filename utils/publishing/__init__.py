"""What builds and ships the course; no notebook imports it."""
