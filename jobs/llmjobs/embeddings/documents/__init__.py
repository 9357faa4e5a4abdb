"""Where documents come from: each kind of source behind one interface, and the parsers of their formats."""
