"""How good is a model?  Evaluations take a CLIP and return numbers; metrics serve MMEngine's test loop."""
