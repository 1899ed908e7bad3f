"""Group-sequential analysis: studies that add seeds in rounds until every contrast is decided."""
