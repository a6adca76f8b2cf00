"""The released training iteration against ours, side by side: `python -m benchmark.perf`."""
