"""Which tokens the context encoder sees and which the predictor must predict."""
