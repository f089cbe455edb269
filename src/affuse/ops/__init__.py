"""Pure tensor functions: no modules, no configuration. Each fast form stands beside an obvious reference."""
