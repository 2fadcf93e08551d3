"""Problems with exact answers that tasks and algorithms use: plans of tabular MDPs, equilibria of games."""
