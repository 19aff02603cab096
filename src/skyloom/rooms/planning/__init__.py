"""Planning: how long will a training take, what will it cost, how many workers suit it, and how far off were we."""
