"""The toy experiment as a script that sweeps can name."""

from toy_experiment import make

experiment = make()

if __name__ == "__main__":
    experiment.run_commandline()
