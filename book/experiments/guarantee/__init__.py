"""What a promise costs and whether it holds, from the committed answers of SceneVLM.

python -m book.experiments.guarantee    write book/results/guarantee.json
"""
