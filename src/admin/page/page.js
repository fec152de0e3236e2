$('theme').addEventListener('click', () => {
  const root = document.documentElement;
  root.dataset.theme = root.dataset.theme === 'dark' ? 'light' : 'dark';
  localStorage.setItem('theme', root.dataset.theme);
});
document.documentElement.dataset.theme = localStorage.getItem('theme') ||
  (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light');
$('token').addEventListener('click', () => { $('secret').value = ''; $('ask').showModal(); });
$('ask').addEventListener('close', () => {
  if ($('ask').returnValue === 'ok') token = $('secret').value.trim();
  if ($('ask').returnValue === 'forget') token = '';
  sessionStorage.setItem('token', token);
});
stayConnected();
startSessions();
