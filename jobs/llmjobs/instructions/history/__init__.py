"""Where rows and versions went: what was made from them, and by whom."""
