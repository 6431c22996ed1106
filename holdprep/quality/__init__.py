"""Is the result fit to train on? Numbers (`metrics`), thresholds (`gates`) and the page that shows both (`report`)."""
