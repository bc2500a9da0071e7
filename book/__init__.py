"""What the book is made with: its build, its experiments, its figures. No part of the library."""
