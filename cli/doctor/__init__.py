"""`car doctor`: what is wrong, by name, and what to do about it."""
