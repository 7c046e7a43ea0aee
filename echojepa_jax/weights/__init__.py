"""Maps between parameter trees and other projects' checkpoint names."""
