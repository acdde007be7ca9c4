"""What a placement serves, predicted in a fraction of a second with nothing fitted."""
