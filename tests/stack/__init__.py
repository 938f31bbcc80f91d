"""Other packages' own test suites, run with the stock engine and with ours, test by test.

`python -m tests.stack --help` says how; tox has an environment for each group of packages.
"""
