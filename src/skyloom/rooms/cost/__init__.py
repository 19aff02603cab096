"""Cost: what every second of every task was worth. Hears of ended tasks as events; knows nothing about jobs."""
