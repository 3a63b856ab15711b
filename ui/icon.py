"""The icon in the browser's tab. One of Streamlit's names for icons would be fetched from another host."""

ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24">'
    '<rect width="24" height="24" rx="5" fill="#1f6feb"/>'
    '<path d="M4 18h4v-4h4v-4h4V6h4" fill="none" stroke="#fff" stroke-width="2.4"'
    ' stroke-linecap="round" stroke-linejoin="round"/></svg>'
)
