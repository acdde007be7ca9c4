"""Pure mathematics of placing a model on a cluster: throughput, flow, planners. No clock, no files, no network."""
