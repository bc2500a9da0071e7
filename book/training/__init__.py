"""How the models of this book were trained."""
