"""The running cluster: GPU nodes, KV caches, links, coordinator, scheduler policies and what they measure."""
