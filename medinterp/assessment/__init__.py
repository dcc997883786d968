"""How far a result and its explanation can be trusted."""
