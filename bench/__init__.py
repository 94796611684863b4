"""The harness of Lethe: data, training, unlearning runs, judging and reports."""
