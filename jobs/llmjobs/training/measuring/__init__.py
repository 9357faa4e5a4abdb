"""How adapters are compared: scores, generated answers, differences with intervals, the gate."""
