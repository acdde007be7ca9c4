"""Studies: many runs of one scenario, and the questions that they answer.

``schema`` and ``definition`` read a study's YAML, ``axes`` makes cells of it, ``points`` runs one of them wherever it
is sent, ``engine`` sends them, ``store`` keeps what comes back, and one module a question says which to run next.
The Python interface is :mod:`scenarios.api`.
"""
