"""Small problems whose answers are known exactly, to hold estimators and learners against."""
