"""Population-based training: members train in slices, and the worse ones go on from copies of the better ones.

The order of the modules: `settings`, `study` (who trains what next, from a journal), `selection` (who copies whom),
`exploration` (which settings change), `generations` (both as one plan), `adopting` (a state under other settings),
`driver` (a population in a folder), `lineage` (tables). Every random draw is a pure function of the seed of the search,
the generation and the member.
"""
