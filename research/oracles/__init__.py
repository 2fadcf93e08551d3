"""Problems with exact answers that tasks and algorithms use: plans of tabular MDPs, equilibria of games.

`bandits` has the classical policies of a problem whose best policy is known.
"""
