"""Look after embedding stores: what is in them, whether they are whole, what must leave them."""
